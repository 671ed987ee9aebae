"""Write what was read from an upload: batch by batch, each in one transaction with its pack of signals."""

from __future__ import annotations

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from django.db import transaction
from django.db.models import Max

from datasets import announced, fingerprint, recording_time, selectors, signals
from datasets.copying import copy_rows
from datasets.file_names import FileNames
from datasets.ingest_plan import Taken
from datasets.models import (
    Dataset,
    Ingest,
    IngestItem,
    LabelSource,
    OriginalFile,
    Outcome,
    Record,
    RecordLabel,
    Sex,
    Subject,
)
from datasets.quality import RECORD_FLAGS
from datasets.reading import Answer
from datasets.reading_pool import Batch
from ecgportal import storage
from ecgportal.projects.services import pseudonym_key
from ecgportal.secrets import encrypt


def item_name(name: str) -> str:
    """Return a file's name as an item shows it, at most 400 characters; different names stay different."""
    clean = name.replace("\x00", "")
    if len(clean) <= 400:
        return clean
    return f"{clean[:190]}…{hashlib.sha256(clean.encode()).hexdigest()[:12]}…{clean[-190:]}"


def content_digest(originals: Iterable[str], key: str) -> str:
    """Return one digest over the sha256 of a record's original files and its key inside them."""
    return hashlib.sha256(("\n".join(sorted(originals)) + "\n" + key).encode()).hexdigest()


@dataclass
class _Candidate:
    """A record that was read, before it is known whether it is new."""

    answer: Answer
    row: dict[str, Any]
    name: str
    digest: str
    keys: tuple[str, str]
    record: Record | None = None
    twin: str | None = None


class Known:
    """What the dataset holds already of a batch, asked for with one query each."""

    def __init__(self, dataset: Dataset, candidates: list[_Candidate]):
        records = Record.objects.filter(dataset=dataset)
        digests = {c.digest for c in candidates}
        self.by_digest = {
            sha: (pk, key)
            for sha, pk, key in records.filter(content_sha256__in=digests).values_list("content_sha256", "pk", "key")
        }
        keys = {key for c in candidates for key in c.keys}
        self.keys = set(records.filter(key__in=keys).values_list("key", flat=True))
        subjects = {c.row["subject"][:120] for c in candidates if c.row["subject"]}
        self.subjects = (
            dict(Subject.objects.filter(dataset=dataset, key__in=subjects).values_list("key", "pk")) if subjects else {}
        )
        buckets = {bucket for c in candidates for bucket in _buckets(c.row["fingerprint"])}
        self._signals: dict[str, list[tuple[str, str]]] = defaultdict(list)
        if buckets:
            for key, code in selectors.signals_in_buckets(dataset, buckets):
                self.add_signal(key, code)

    def add_signal(self, key: str, code: str) -> None:
        for bucket in _buckets(code):
            self._signals[bucket].append((key, code))

    def twin(self, code: str) -> str | None:
        """Return the key of a record with the same signal."""
        for bucket in _buckets(code):
            for key, other in self._signals.get(bucket, ()):
                if fingerprint.similar(code, other):
                    return key
        return None


def _buckets(code: str) -> tuple[str, ...]:
    return fingerprint.buckets(code) if code else ()


def _digests(batch: Batch) -> set[str]:
    """Return the digests of the original files that come with a batch."""
    return {original["sha256"] for answer in batch.answers for original in answer.get("originals", ())}


class Store:
    """Write the batches of one ingest. Every file's outcome is stored once, however often the ingest is started."""

    def __init__(self, ingest: Ingest, site_of: Callable[[str], str] | None = None):
        self.ingest = ingest
        self.n_new = 0
        self._site_of = site_of
        self.dataset: Dataset = ingest.dataset
        project = self.dataset.project
        self._keeps = project.keeps_identifiers
        self._names = FileNames(pseudonym_key(project), self._keeps)
        # Of the batch that is being written: names that files themselves tell, outcomes stored already, the last position.
        self._told: dict[str, str] = {}
        self._shown: dict[str, str] = {}
        self._done: set[str] = set()
        self._position = 0

    def learn(self, told: dict[str, str]) -> None:
        """Take over what files have said of their names, wherever they were read."""
        self._told, self._shown = dict(told), {}

    def shown(self, name: str) -> str:
        """Return how a file's name is shown: as it is, unless it names a person."""
        found = self._shown.get(name)
        if found is None:
            found = self._shown[name] = item_name(self._told.get(name) or self._names.shown(name))
        return found

    def _without_name(self, text: str, name: str) -> str:
        """Return a sentence about a file with its name as it is shown."""
        shown = self.shown(name)
        if shown == name:
            return text
        bare, said = PurePosixPath(name), PurePosixPath(shown)
        return text.replace(name, shown).replace(bare.name, said.name).replace(bare.stem, said.stem)

    def write(self, batch: Batch, taken: Taken | None = None) -> int:
        """Store one batch whole or not at all; returns how many records are new. taken: the part that it belongs to, marked
        as done in the same transaction; PartLost when another process has it now."""
        if not batch.answers and taken is None:
            return 0
        pack: uuid.UUID | None = None
        try:
            with transaction.atomic():
                # Two uploads to one dataset take turns here, so that the same file is stored once.
                signals.take_turns(self.dataset.pk)
                # No file may be removed as unused between being stored and being referred to.
                storage.hold_blobs()
                if taken is not None:
                    taken.hold()
                items, candidates = self._judge(batch.answers)
                new = [c for c in candidates if c.record is not None]
                if new:
                    assert batch.spool is not None
                    pack = uuid.uuid4()
                    announced.announce(self.dataset.pk, pack, _digests(batch))
                    self._pack(new, batch.spool, pack)
                    self._insert(new, pack)
                copy_rows(items)
                if taken is not None:
                    taken.note(batch.answers, batch.is_last)
        except BaseException:
            if pack is not None:
                signals.discard(self.dataset.pk, pack)
            storage.drop_unused(_digests(batch))
            if pack is not None:
                announced.withdraw(self.dataset.pk, pack)
            raise
        if pack is not None:
            announced.withdraw(self.dataset.pk, pack)
        self.n_new += len(new)
        return len(new)

    def _judge(self, answers: list[Answer]) -> tuple[list[IngestItem], list[_Candidate]]:
        """Decide about every file and record in order; accepted candidates carry their new row."""
        self.learn({raw: shown for answer in answers for raw, shown in answer.get("shown", {}).items()})
        candidates = [c for answer in answers if answer["kind"] == "taken" for c in self._candidates(answer)]
        self._look_up(answers, candidates)
        known = Known(self.dataset, candidates)
        self._subjects(candidates, known)
        waiting = iter(candidates)
        items: list[IngestItem | None] = []
        for answer in answers:
            if answer["kind"] == "unpacked":
                items += [
                    self._item(f"{self.shown(answer['name'])}: {name}", Outcome.REFUSED, code, sentence)
                    for name, code, sentence in answer["refused"]
                ]
            if answer["kind"] in ("unpacked", "split"):
                continue
            if answer["kind"] == "refused":
                name = answer["name"]
                message = self._without_name(answer["message"], name)
                asks = {field: self._without_name(text, name) for field, text in answer["asks"].items()}
                items.append(self._item(self.shown(name), Outcome.REFUSED, answer["code"], message, asks=asks))
                continue
            items += [self._decide(next(waiting), known) for _ in answer["records"]]
            items += [
                self._item(self.shown(name), Outcome.COMPANION, "", "Read together with its header.")
                for name in answer["companions"]
            ]
        return [item for item in items if item is not None], candidates

    def _look_up(self, answers: list[Answer], candidates: list[_Candidate]) -> None:
        """Find which of the batch's outcomes are stored already, and at which position the next one stands."""
        names = {item_name(c.name) for c in candidates}
        for answer in answers:
            if answer["kind"] == "refused":
                names.add(item_name(self.shown(answer["name"])))
            elif answer["kind"] == "unpacked":
                names.update(item_name(f"{self.shown(answer['name'])}: {name}") for name, _, _ in answer["refused"])
            else:
                names.update(item_name(self.shown(name)) for name in answer.get("companions", ()))
        items = self.ingest.items
        self._done = set(items.filter(name__in=names).values_list("name", flat=True)) if names else set()
        self._position = items.aggregate(last=Max("position"))["last"] or 0

    def _candidates(self, answer: Answer) -> list[_Candidate]:
        shas = [original["sent_sha256"] for original in answer["originals"]]
        whole = not answer["many"] and bool(shas)
        name = self.shown(answer["name"])
        path = str(PurePosixPath(name).with_suffix(""))
        return [
            _Candidate(
                answer, row, f"{name}: {row['key']}" if answer["many"] else name,
                content_digest(shas, "" if whole else row["key"]), (row["key"][-200:], path[-200:]),
            )
            for row in answer["records"]
        ]  # fmt: skip

    def _subjects(self, candidates: list[_Candidate], known: Known) -> None:
        wanted = {c.row["subject"][:120] for c in candidates if c.row["subject"] and c.digest not in known.by_digest}
        if missing := sorted(wanted - set(known.subjects)):
            # A label table may bring the same subjects at the same time.
            told = {c.row["subject"]: c.row["identifier"] for c in candidates if c.row.get("identifier")}
            Subject.objects.bulk_create(
                [
                    Subject(
                        dataset=self.dataset, key=key, identifier_encrypted=encrypt(told[key]) if key in told else ""
                    )
                    for key in missing
                ],
                ignore_conflicts=True,
            )
            known.subjects |= dict(
                Subject.objects.filter(dataset=self.dataset, key__in=missing).values_list("key", "pk")
            )

    def _item(
        self,
        name: str,
        outcome: str,
        code: str = "",
        message: str = "",
        record: uuid.UUID | None = None,
        asks: dict[str, str] | None = None,
    ) -> IngestItem | None:
        shown = item_name(name)
        if shown in self._done:
            return None
        self._done.add(shown)
        self._position += 1
        return IngestItem(
            ingest=self.ingest, position=self._position, name=shown, outcome=outcome, code=code,
            message=message.replace("\x00", ""), record_id=record, asks=asks or {},
        )  # fmt: skip

    def _decide(self, found: _Candidate, known: Known) -> IngestItem | None:
        if item_name(found.name) in self._done:
            return None
        if found.digest in known.by_digest:
            pk, key = known.by_digest[found.digest]
            sentence = f"The same file is in the dataset already, as {key}."
            return self._item(found.name, Outcome.DUPLICATE, "same_content", sentence, pk)
        key = next((key for key in found.keys if key not in known.keys), None)
        if key is None:
            sentence = f"The dataset has a record called {found.row['key']} with other content. Rename the file, or delete that record first."
            return self._item(found.name, Outcome.REFUSED, "key_taken", sentence)
        found.record = record = self._record(found, key, known)
        known.by_digest[found.digest] = record.pk, key
        known.keys.add(key)
        twin = known.twin(record.fingerprint)
        known.add_signal(key, record.fingerprint)
        message = " ".join(record.meta["notes"])
        if twin is not None:
            message = f"It holds the same signal as {twin}; a split keeps the two on one side. {message}".strip()
        # What contradicts physiology points to a wrong rate or unit, stated, answered or guessed.
        wrong = [flag for flag in record.quality.get("flags", ()) if flag.startswith("implausible")]
        message = " ".join([*(RECORD_FLAGS[flag] for flag in wrong), message]).strip()
        code = "same_signal" if twin else wrong[0] if wrong else ""
        return self._item(found.name, Outcome.ACCEPTED, code, message, record.pk)

    def _record(self, found: _Candidate, key: str, known: Known) -> Record:
        row = found.row
        subject = row["subject"][:120] if row["subject"] else None
        at = recording_time.parse(row.get("recorded_at"))
        return Record(
            dataset=self.dataset, subject_id=known.subjects[subject] if subject else None, key=key,
            format=found.answer["format"], fs_hz=row["fs_hz"], n_samples=row["n_samples"], leads=row["leads"],
            leads_computed=row["computed"], age=row["age"], sex=Sex.stored(row["sex"]), quality=row["quality"],
            quality_score=row["score"], content_sha256=found.digest, fingerprint=row["fingerprint"], meta=row["meta"],
            search_text=f"{key} {subject or ''}".lower(),
            site=self._site_of(found.answer["name"])[:80] if self._site_of else "",
            recorded_at=at, has_shifted_time=at is not None and not self._keeps,
        )  # fmt: skip

    def _pack(self, new: list[_Candidate], spool: Path, pack: uuid.UUID) -> None:
        """Make the spool a pack, or copy what is new out of it. Sets each record's pack and offset."""
        sizes = [4 * len(c.row["leads"]) * c.row["n_samples"] for c in new]
        if sum(sizes) == spool.stat().st_size:
            for c in new:
                c.record.offset = c.row["offset"]  # type: ignore[union-attr]
            signals.adopt_pack(self.dataset.pk, spool, pack)
            return
        with signals.PackWriter(self.dataset.pk, pack) as writer, spool.open("rb") as stream:
            for c, size in zip(new, sizes, strict=True):
                c.record.offset = writer.copy(stream, c.row["offset"], size)  # type: ignore[union-attr]

    def _insert(self, new: list[_Candidate], pack: uuid.UUID) -> None:
        records: list[Record] = []
        originals: list[OriginalFile] = []
        labels: list[RecordLabel] = []
        kept: dict[str, Path] = {}
        for c in new:
            assert c.record is not None
            c.record.pack = pack
            records.append(c.record)
            for original in c.answer["originals"]:
                if original["path"] is None:
                    continue
                kept[original["sha256"]] = Path(original["path"])
                name = PurePosixPath(self.shown(original["name"])).name[:400]
                originals.append(
                    OriginalFile(record=c.record, name=name, sha256=original["sha256"], size=original["size"])
                )
            seen: set[tuple[str, str]] = set()
            for system, code, likelihood in c.row["labels"]:
                if (system, code[:120]) not in seen:
                    seen.add((system, code[:120]))
                    labels.append(
                        RecordLabel(
                            record=c.record,
                            system=system,
                            code=code[:120],
                            likelihood=likelihood,
                            source=LabelSource.FILE,
                        )
                    )
        storage.adopt([(path, sha256) for sha256, path in kept.items()])
        copy_rows(records)
        copy_rows(originals)
        copy_rows(labels)

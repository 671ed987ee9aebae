"""What there is to do about an upload, as parts that processes of any host take, do whole, and mark as done.

The parts' rows are the truth: who stops in the middle leaves its parts to others, and what is marked as done is stored. A stage's
parts are planned when those of the stage before are done, because those say what is left: archives are unpacked first, WFDB
headers are read next (those that name segments before the others), and then what no header has claimed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from django.db import transaction
from django.db.models import F, Max, Q, QuerySet, Sum

from datasets.file_index import FileIndex
from datasets.formats import archive
from datasets.models import Ingest, IngestPart, Stage
from datasets.reading import SPLIT_PART, Answer, FileTask, refused
from ecgportal import home, storage
from ecgportal.errors import PortalError
from ecgportal.jobs.models import OPEN, Job, JobState

FILES_PER_PART = 64
MEMBERS_PER_PART = 256
MEMBER_BYTES_PER_PART = 64_000_000
LARGE_BYTES = 8_000_000
# Below this it takes longer to start other processes than to read the files.
_FEW_FILES, _FEW_BYTES = 40, 40_000_000
# A tar does not say what it holds before it is read.
_TAR_RATIO = 4


@dataclass
class Work:
    """What a part's row says: which files to read, or which members of an archive to unpack, to about ``size`` bytes."""

    files: list[str]
    part: tuple[int, int] | None = None
    originals: list[dict[str, Any]] | None = None
    may_split: bool = False
    unpacks: bool = False
    members: list[tuple[int, str]] | None = None
    size: int = 0

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value}

    def tasks(self, into: Path) -> list[FileTask]:
        """Return the tasks for those that read. into: the folder for what is unpacked."""
        place = str(into) if self.unpacks else None
        return [FileTask(name, self.part, self.originals, self.may_split, place, self.members) for name in self.files]


class PartLost(Exception):
    """Another process has the part now, or the upload is not read any more."""


class Plan:
    """The parts of one upload. base: where its files lie on this host: the upload's own folder, or a collection's."""

    def __init__(self, ingest: Ingest, base: Path | None = None):
        self.ingest = ingest
        self.folder = storage.area("uploads", ingest.pk)
        self.base = base or self.folder
        self._index: FileIndex | None = None

    # -- stages

    def begin(self, files: dict[str, Path], write: Callable[[list[Answer]], Any]) -> None:
        """Plan the first stage over the upload's files by name; what an attempt before this one had begun is removed.

        write: stores the answers for archives, or members of them, that are not opened.
        """
        for name in ("members", "spool"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir()
        FileIndex.write(self._list(Stage.ARCHIVES), self.base, files)
        if storage.shared() is not None:
            self.ingest.read_on = home.host_name()
            self.ingest.save(update_fields=["read_on"])
        works, answers = [], []
        for name, path in files.items():
            if not self.ingest.source and _is_archive(name, path):
                try:
                    works += self._unpacking(name, path, answers)
                except PortalError as error:
                    answers.append(refused(name, error.code, error.message))
        write(answers)
        self._enter(Stage.ARCHIVES, works)

    @staticmethod
    def _unpacking(name: str, path: Path, answers: list[Answer]) -> list[Work]:
        with path.open("rb") as stream:
            if not archive.is_zip(stream.read(4)):
                return [Work([name], unpacks=True, size=_TAR_RATIO * path.stat().st_size)]
        listing = archive.list_zip(path, name)
        answers += [refused(f"{name}: {inner}", code, sentence) for inner, code, sentence in listing.refused]
        works, members, size = [], [], 0
        for place, inner, bytes_ in listing.members:
            members.append((place, inner))
            size += bytes_
            if len(members) == MEMBERS_PER_PART or size >= MEMBER_BYTES_PER_PART:
                works.append(Work([name], unpacks=True, members=members, size=size))
                members, size = [], 0
        return [*works, Work([name], unpacks=True, members=members, size=size)] if members else works

    def go_on(self) -> bool:
        """Plan the next stage, once every part of this one is done; False when all files are read."""
        if self.ingest.stage == Stage.ARCHIVES:
            index = FileIndex.write(self._list(Stage.MASTERS), self.base, self._unpacked())
            masters = [name for name, path in index.files() if _is_header(name) and _has_segments(path)]
            self._enter(Stage.MASTERS, _works(masters))
            self._drop_archives()
        elif self.ingest.stage == Stage.MASTERS:
            self._enter(Stage.HEADERS, _works([name for name, _ in self._unclaimed() if _is_header(name)]))
        elif self.ingest.stage == Stage.HEADERS:
            others = [(name, path) for name, path in self._unclaimed() if not _is_header(name)]
            self._enter(Stage.OTHERS, _works([name for name, _ in others], dict(others)))
        else:
            return False
        return True

    def _enter(self, stage: Stage, works: list[Work]) -> None:
        """Write the parts of a stage, those of the same file in its order."""
        with transaction.atomic():
            last = self.ingest.parts.aggregate(last=Max("number"))["last"]
            first = 0 if last is None else last + 1
            IngestPart.objects.bulk_create(
                [IngestPart(ingest=self.ingest, number=first + n, work=work.to_json()) for n, work in enumerate(works)],
                batch_size=500,
            )
            self.ingest.stage = stage
            self.ingest.save(update_fields=["stage"])
        self._index = None

    def _unpacked(self) -> dict[str, Path]:
        """Return the files to read by name: what was sent, with the members of archives in their place. A member stands under
        its archive's stem only where two archives hold the same names."""
        members: dict[str, list[tuple[str, str]]] = {}
        for part in self.ingest.parts.order_by("number"):
            (name,) = part.work["files"]
            members.setdefault(name, []).extend(part.found.get("files", ()))
        files: dict[str, Path] = {}
        for name, path in FileIndex(self._list(Stage.ARCHIVES), self.base).files():
            if name not in members:
                # An archive without parts was refused.
                if self.ingest.source or not _is_archive(name, path):
                    files[free_name(name, files)] = path
                continue
            clash = any(inner in files for inner, _ in members[name])
            for inner, stored in members[name]:
                inner = f"{PurePosixPath(name).stem}/{inner}" if clash else inner
                files[inner] = self.folder / "members" / stored
        return files

    def _drop_archives(self) -> None:
        """Remove the archives once their members lie beside them: nothing reads them again."""
        archives = {
            name
            for work in self.ingest.parts.values_list("work", flat=True)
            if work.get("unpacks")
            for name in work["files"]
        }
        for name, path in FileIndex(self._list(Stage.ARCHIVES), self.base).files():
            if name in archives:
                path.unlink(missing_ok=True)

    def _unclaimed(self) -> Iterator[tuple[str, Path]]:
        """Yield the files that no part has dealt with so far."""
        gone: set[str] = set()
        for work, found in self.ingest.parts.values_list("work", "found"):
            gone.update(found.get("claimed", ()))
            if not work.get("unpacks"):
                gone.update(work["files"])
        return ((name, path) for name, path in self.index().files() if name not in gone)

    # -- files

    def _list(self, stage: int) -> Path:
        return self.folder / ("sent.jsonl" if stage <= Stage.ARCHIVES else "files.jsonl")

    def index(self) -> FileIndex:
        """Return the list of files of the stage that is under way."""
        path = self._list(self.ingest.stage)
        if self._index is None or self._index.path != path:
            self._index = FileIndex(path, self.base)
        return self._index

    def is_here(self) -> bool:
        """Tell whether what was planned and unpacked lies on this host."""
        if storage.shared() is None:
            return True
        return self.ingest.read_on == home.host_name() and self._list(self.ingest.stage).exists()

    def is_small(self) -> bool:
        """Tell whether the stage's work is done sooner than another process has started."""
        if self.ingest.stage > Stage.ARCHIVES:
            index = self.index()
            return len(index) <= _FEW_FILES and sum(path.stat().st_size for _, path in index.files()) <= _FEW_BYTES
        count = size = 0
        for part in self.ingest.parts.all()[: _FEW_FILES + 1]:
            members = part.work.get("members")
            count += 1 if members is None else len(members)
            size += part.work.get("size", 0)
        return count <= _FEW_FILES and size <= _FEW_BYTES

    # -- parts

    def _open(self) -> QuerySet[IngestPart]:
        return self.ingest.parts.filter(is_done=False)

    def _free(self) -> QuerySet[IngestPart]:
        held = Q(taken_by__state=JobState.RUNNING, taken_by__attempt=F("taken_attempt"))
        return self._open().filter(Q(taken_by=None) | ~held)

    def release(self, job: Job) -> None:
        """Let go of what an attempt of this job before this one had taken."""
        self._open().filter(taken_by=job).update(taken_by=None)

    def n_free(self) -> int:
        return self._free().count()

    def is_whole(self) -> bool:
        """Tell whether every part of the stage is done."""
        return not self._open().exists()

    def take(self, job: Job) -> Taken | None:
        """Take the next free part for a running job; None without one, or when the upload's own job has ended."""
        with transaction.atomic():
            free = self._free().filter(ingest__job__state__in=OPEN).order_by("number")
            part = free.select_for_update(skip_locked=True, of=("self",)).first()
            if part is None:
                return None
            part.taken_by, part.taken_attempt, part.host = job, job.attempt, job.host
            part.save(update_fields=["taken_by", "taken_attempt", "host"])
        return Taken(self, part)

    def n_done(self) -> int:
        """Return how many of the upload's files are dealt with."""
        return self.ingest.parts.filter(is_done=True).aggregate(n=Sum("n_files"))["n"] or 0

    def shares(self) -> dict[str, int]:
        """Return how many files each host has read."""
        done = self.ingest.parts.filter(is_done=True, n_files__gt=0).order_by().values_list("host")
        return dict(done.annotate(n=Sum("n_files")))

    def told(self) -> dict[str, str]:
        """Return the names of files that their contents say are a person's, with what is shown for them."""
        return {
            raw: shown
            for found in self.ingest.parts.values_list("found", flat=True)
            for raw, shown in found.get("shown", {}).items()
        }

    def close(self, stage: int) -> None:
        """Forget the parts, which name files as they were sent."""
        self.ingest.parts.all().delete()
        self.ingest.stage = stage
        Ingest.objects.filter(pk=self.ingest.pk).update(stage=stage)


class Taken:
    """A part that this process does."""

    def __init__(self, plan: Plan, part: IngestPart):
        self.plan, self.part = plan, part

    def tasks(self) -> list[FileTask]:
        work = dict(self.part.work)
        if originals := work.get("originals"):
            roots = {"upload": self.plan.folder, "base": self.plan.base}
            work["originals"] = [
                {**entry, "path": str(roots[entry["path"][0]] / entry["path"][1])} if entry["path"] else entry
                for entry in originals
            ]
        return Work(**work).tasks(self.plan.folder / "members")

    def hold(self) -> None:
        """Inside the transaction that stores answers: see that the part is still ours until it ends. Raises PartLost."""
        part = self.part
        ours = IngestPart.objects.select_for_update().filter(
            pk=part.pk, is_done=False, taken_by=part.taken_by_id, taken_attempt=part.taken_attempt
        )
        if not ours.values_list("pk"):
            raise PartLost

    def note(self, answers: list[Answer], is_last: bool) -> None:
        """In the same transaction: keep what later stages must know, and with the last answers mark the part as done."""
        part, found = self.part, dict(self.part.found)
        claimed, shown, files = set(found.get("claimed", ())), dict(found.get("shown", {})), found.get("files", [])
        for answer in answers:
            shown |= answer.get("shown", {})
            claimed.update(answer.get("companions", ()))
            if answer["kind"] == "unpacked":
                files = [*files, *answer["files"]]
            elif answer["kind"] == "split":
                self._split(answer)
        part.found = {
            name: value for name, value in (("claimed", sorted(claimed)), ("shown", shown), ("files", files)) if value
        }
        part.is_done = is_last
        if is_last and part.work.get("unpacks") is None and part.work.get("part") is None:
            part.n_files = len(part.work["files"]) + len(claimed)
        part.save(update_fields=["found", "is_done", "n_files"])

    def _split(self, answer: Answer) -> None:
        """Make parts of a collection's ranges of records."""
        originals = [
            {**entry, "path": self._portable(Path(entry["path"])) if entry["path"] else None}
            for entry in answer["originals"]
        ]
        ingest = self.plan.ingest
        first = ingest.parts.aggregate(last=Max("number"))["last"] + 1
        spans = [(start, min(start + SPLIT_PART, answer["count"])) for start in range(0, answer["count"], SPLIT_PART)]
        IngestPart.objects.bulk_create(
            [
                IngestPart(ingest=ingest, number=first + n, work=Work([answer["name"]], span, originals).to_json())
                for n, span in enumerate(spans)
            ],
            batch_size=500,
        )

    def _portable(self, path: Path) -> tuple[str, str]:
        """Return a path as other hosts find it: from the upload's folder, or from where its files lie."""
        for word, root in (("upload", self.plan.folder), ("base", self.plan.base)):
            if path.is_relative_to(root):
                return word, str(path.relative_to(root))
        raise ValueError(f"{path} lies outside the upload")


def start_over_elsewhere(ingest: Ingest) -> None:
    """Plan an upload anew that another host was reading, where hosts have no folder in common. What is stored of it stays stored,
    and is not stored again."""
    if ingest.stage not in (Stage.NEW, Stage.READ) and not Plan(ingest).is_here():
        Plan(ingest).close(Stage.NEW)


def free_name(name: str, taken: dict[str, Path]) -> str:
    """Return the name, with a number where it is taken."""
    candidate, number = name, 2
    while candidate in taken:
        path = PurePosixPath(name)
        candidate, number = str(path.with_name(f"{path.stem}-{number}{path.suffix}")), number + 1
    return candidate


def _works(names: list[str], paths: dict[str, Path] | None = None) -> list[Work]:
    """Return parts of some files each; of ``paths`` large ones are parts of their own, which may be split further."""
    works: list[Work] = []
    waiting: list[str] = []
    for name in sorted(names):
        if paths is not None and paths[name].stat().st_size > LARGE_BYTES:
            if waiting:
                works.append(Work(waiting))
            works.append(Work([name], may_split=True))
            waiting = []
            continue
        waiting.append(name)
        if len(waiting) == FILES_PER_PART:
            works.append(Work(waiting))
            waiting = []
    return [*works, Work(waiting)] if waiting else works


def _is_header(name: str) -> bool:
    return name.lower().endswith(".hea")


def _is_archive(name: str, path: Path) -> bool:
    with path.open("rb") as stream:
        return archive.is_archive(stream.read(4096), name)


def _has_segments(header: Path) -> bool:
    """Tell whether a WFDB header's record line names several segments (``name/segments``)."""
    with header.open("rb") as stream:
        head = stream.read(2048)
    line = next((line for line in head.splitlines() if line.strip() and not line.lstrip().startswith(b"#")), b"")
    return b"/" in line.split(b" ")[0]

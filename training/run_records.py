"""Which records take part in a run, and what it knows of them from its start on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from datasets.models import Dataset, LabelMap, Record
from training.models import DrawnBy, SplitMember, TrainingRun
from training.selection import Selection
from training.targets import Labelled, drawn_alike, labelled_records


def chosen_records(
    datasets: Sequence[Dataset], selection: Selection, task: str, outputs: Sequence[str], label_map: LabelMap | None, target: str, seed: int,
    drawn_by: str,
) -> list[Labelled]:  # fmt: skip
    """Return the labelled records of the datasets that pass a selection, in the order by which they are drawn."""
    records = selection.records(Record.objects.filter(dataset__in=[row.pk for row in datasets]))
    items = in_order(labelled_records(records, task, outputs, label_map, target), drawn_by)
    return selection.draw(items, outputs, task, seed)


def in_order(items: list[Labelled], drawn_by: str) -> list[Labelled]:
    """Return records in the order by which chance meets them."""
    return drawn_alike(items) if drawn_by == DrawnBy.CONTENT else [replace(item, order="") for item in items]


def records_of(run: TrainingRun) -> list[Labelled]:
    """Return the records that take part in a run, by its frozen choices; once they are divided, with the truths that they had
    then, where these were kept."""
    members = SplitMember.objects.filter(split=run.split_id)
    truths = dict(members.filter(truth__isnull=False).values_list("record", "truth")) if run.split_id else {}
    if truths:
        records = Record.objects.filter(pk__in=members.filter(truth__isnull=False).values("record"))
        return in_order(
            labelled_records(records, run.task, run.classes, run.label_map, run.target, truths), run.drawn_by
        )
    return chosen_records(
        list(run.datasets.order_by("name", "pk")), Selection.from_dict(run.selection), run.task, run.classes, run.label_map, run.target,
        run.settings["seed"], run.drawn_by,
    )  # fmt: skip


def keeps_truths(run: TrainingRun) -> bool:
    """Tell whether a run has kept what was known of its records when they were divided; earlier versions did not."""
    return SplitMember.objects.filter(split=run.split_id, truth__isnull=False).exists()


def labels_changed(run: TrainingRun, items: Sequence[Labelled]) -> int:
    """Return of how many of a run's records the truth is another now than the one that the run has kept."""
    records = Record.objects.filter(pk__in=SplitMember.objects.filter(split=run.split_id).values("record"))
    today = labelled_records(records, run.task, run.classes, run.label_map, run.target)
    now = {item.record: item.label for item in today}
    return sum(now.get(item.record) != item.label for item in items)

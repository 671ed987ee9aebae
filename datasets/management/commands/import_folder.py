import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from datasets.models import Dataset, Outcome
from datasets.services import check_read_options, dataset_create, upload_receive
from ecgportal.commands import PortalCommand
from ecgportal.errors import InvalidInput, NotFound
from ecgportal.projects.access import Action

_CHUNK = 1 << 20


class LocalFile:
    """A file of this machine in the form of an uploaded one. ``name`` is its path inside the imported folder."""

    def __init__(self, path: Path, name: str):
        self.path, self.name, self.size = path, name, path.stat().st_size

    def chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk


def files_of(path: Path) -> list[LocalFile]:
    """Return one file, or all files of a folder and its folders without hidden ones and links."""
    if path.is_file():
        return [LocalFile(path, path.name)]
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        entries = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
        found += [LocalFile(x, x.relative_to(path).as_posix()) for x in entries if x.is_file() and not x.is_symlink()]
    return found


class Command(PortalCommand):
    help = "Take a folder, an archive or a file of ECGs into a dataset, which is made when it is not there."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", type=Path)
        parser.add_argument("--project", required=True, help="id, short name or name")
        parser.add_argument("--dataset", required=True, help="id or name")
        parser.add_argument("--fs-hz", help="sampling rate of files that do not say it")
        parser.add_argument("--unit", help="unit of files that do not say it: mV, uV, V, nV or as in 200/mV")
        parser.add_argument("--lead-order", help="leads of files that do not say them, separated by commas")

    def do(self, **options: Any) -> dict[str, Any]:
        path: Path = options["path"]
        if not path.exists():
            raise NotFound(f"There is nothing at {path}.")
        project = self.project(options["project"], Action.DATA_EDIT)
        choices = check_read_options(options["fs_hz"], options["unit"], options["lead_order"])
        files = files_of(path)
        if not files:
            raise InvalidInput(f"{path} holds no files.")
        rows = Dataset.objects.filter(project=project)
        try:
            dataset = self.find(rows, Action.DATA_EDIT, options["dataset"], name__iexact=options["dataset"])
        except NotFound:
            dataset = dataset_create(actor=self.user, project=project, name=options["dataset"])
        ingest = upload_receive(actor=self.user, dataset=dataset, files=files, options=choices)
        assert ingest.job is not None
        result = self.follow(ingest.job).result
        refused = ingest.items.filter(outcome=Outcome.REFUSED).values("name", "code", "message")
        return {"dataset": str(dataset.pk), **result, "refused_files": list(refused)}

    def show(self, result: dict[str, Any]) -> None:
        for item in result.pop("refused_files"):
            self.stderr.write(f"refused: {item['name']}: {item['message']}")
        super().show(result)

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from ecgportal.commands import PortalCommand
from ecgportal.projects.access import Action
from modelhub import downloads
from modelhub.models import ModelVersion
from modelhub.naming import version_lookup


class Command(PortalCommand):
    help = "Write a model version to a file: ONNX, a signed bundle, or safetensors."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("version_name", metavar="version", help="id, or name as in 'Net v3'")
        parser.add_argument("output", type=Path)
        parser.add_argument("--format", choices=downloads.FORMATS, default="onnx")

    def do(self, **options: Any) -> dict[str, Any]:
        versions = ModelVersion.objects.select_related("model__project")
        name = options["version_name"]
        version = self.find(versions, Action.MODEL_DOWNLOAD, name, **version_lookup(name))
        answer = downloads.answer(version, options["format"], actor=self.user)
        size = 0
        draft = options["output"].with_name(options["output"].name + ".part")
        with draft.open("wb") as stream:
            for chunk in answer.streaming_content if answer.streaming else [answer.content]:
                size += stream.write(chunk)
        draft.replace(options["output"])
        return {"version": str(version.pk), "sha256": version.sha256, "output": str(options["output"]), "bytes": size}

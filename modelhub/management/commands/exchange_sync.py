from typing import Any

from django.core.management.base import CommandParser

from ecgportal.commands import PortalCommand
from ecgportal.errors import InvalidInput, NotFound
from ecgportal.projects.access import Action
from modelhub import exchange
from modelhub.models import Exchange, ModelVersion
from modelhub.naming import version_lookup
from modelhub.services_exchanges import pull_start, push_start


class Command(PortalCommand):
    help = "List the models of an exchange, publish one there, pull one, or bring a project and the exchange to the same state."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("exchange", help="id or name")
        parser.add_argument("what", choices=["list", "push", "pull", "sync"])
        parser.add_argument("--project", help="id, short name or name")
        parser.add_argument("--model-version", help="what is pushed: id, or name as in 'Net v3'")
        parser.add_argument("--path", help="what is pulled: its path as the list shows it")

    def do(self, **options: Any) -> dict[str, Any]:
        name = options["exchange"]
        found = next((row for row in Exchange.objects.all() if name in (str(row.pk), row.name)), None)
        if found is None:
            raise NotFound(f"There is no exchange called {name}.")
        return getattr(self, f"_{options['what']}")(found, options)

    def _project(self, options: dict[str, Any], action: Action) -> Any:
        if not options["project"]:
            raise InvalidInput("Say for which project.", fields={"project": "Give --project."})
        return self.project(options["project"], action)

    def _list(self, remote: Exchange, options: dict[str, Any]) -> dict[str, Any]:
        project = self._project(options, Action.MODEL_VIEW) if options["project"] else None
        return {"models": exchange.listing(remote, project)}

    def _push(self, remote: Exchange, options: dict[str, Any]) -> dict[str, Any]:
        name = options["model_version"] or ""
        versions = ModelVersion.objects.select_related("model__project")
        version = self.find(versions, Action.MODEL_EXCHANGE, name, **version_lookup(name))
        return self.follow(push_start(actor=self.user, exchange=remote, version=version).job).result

    def _pull(self, remote: Exchange, options: dict[str, Any]) -> dict[str, Any]:
        project = self._project(options, Action.MODEL_EXCHANGE)
        path = options["path"] or ""
        return self.follow(pull_start(actor=self.user, exchange=remote, project=project, remote_path=path).job).result

    def _sync(self, remote: Exchange, options: dict[str, Any]) -> dict[str, Any]:
        project = self._project(options, Action.MODEL_EXCHANGE)
        transfers = exchange.sync_start(actor=self.user, exchange=remote, project=project)
        done = [{"direction": x.direction, **self.follow(x.job).result} for x in transfers]
        return {"transfers": done}

    def show(self, result: dict[str, Any]) -> None:
        for row in [*result.pop("models", []), *result.pop("transfers", [])]:
            self.stdout.write(
                "  ".join(str(row[name]) for name in ("state", "direction", "path", "name", "version") if row.get(name))
            )
        super().show(result)

from django.apps import AppConfig


class DatasetsConfig(AppConfig):
    name = "datasets"

    def ready(self) -> None:
        from datasets import actions, handlers, overview, tidying  # noqa: F401  (register audit verbs, job kinds, figures, files)

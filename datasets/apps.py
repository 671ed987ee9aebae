from django.apps import AppConfig


class DatasetsConfig(AppConfig):
    name = "datasets"

    def ready(self) -> None:
        from datasets import actions, handlers, overview  # noqa: F401  (register audit verbs, job kinds, figures)

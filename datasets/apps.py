from django.apps import AppConfig


class DatasetsConfig(AppConfig):
    name = "datasets"

    def ready(self) -> None:
        from datasets import actions, handlers  # noqa: F401  (register audit verbs and job kinds)

from django.apps import AppConfig


class ModelhubConfig(AppConfig):
    name = "modelhub"

    def ready(self) -> None:
        from modelhub import actions, handlers  # noqa: F401  (register audit verbs and job kinds)

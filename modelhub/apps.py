from django.apps import AppConfig


class ModelhubConfig(AppConfig):
    name = "modelhub"

    def ready(self) -> None:
        from modelhub import actions, handlers, overview, tidying, uses  # noqa: F401  (register audit verbs, job kinds, figures, files, uses)

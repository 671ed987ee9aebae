from django.apps import AppConfig


class VizConfig(AppConfig):
    name = "viz"

    def ready(self) -> None:
        from viz import actions, handlers  # noqa: F401  (register audit verbs and job kinds)

from django.apps import AppConfig


class VizConfig(AppConfig):
    name = "viz"

    def ready(self) -> None:
        from viz import actions, dash_setup, handlers  # noqa: F401  (register audit verbs and job kinds)

        dash_setup.prepare()

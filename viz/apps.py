from django.apps import AppConfig


class VizConfig(AppConfig):
    name = "viz"

    def ready(self) -> None:
        from viz import dash_setup

        dash_setup.prepare()

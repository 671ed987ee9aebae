from django.apps import AppConfig


class TrainingConfig(AppConfig):
    name = "training"

    def ready(self) -> None:
        from training import actions, handlers, overview, tidying, uses  # noqa: F401  (register audit verbs, job kinds, figures, files, uses)

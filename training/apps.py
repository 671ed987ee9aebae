from django.apps import AppConfig


class TrainingConfig(AppConfig):
    name = "training"

    def ready(self) -> None:
        from training import actions, handlers, overview, uses  # noqa: F401  (register audit verbs, job kinds, figures, uses)

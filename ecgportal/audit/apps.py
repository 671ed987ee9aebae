from django.apps import AppConfig


class AuditConfig(AppConfig):
    name = "ecgportal.audit"
    label = "audit"

    def ready(self) -> None:
        from ecgportal.audit import signals  # noqa: F401  (connects sign-in and sign-out)

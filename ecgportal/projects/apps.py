from django.apps import AppConfig


class ProjectsConfig(AppConfig):
    name = "ecgportal.projects"
    label = "projects"

    def ready(self) -> None:
        from ecgportal.audit.trail import tell_roles
        from ecgportal.projects.access import acting_role

        tell_roles(acting_role)

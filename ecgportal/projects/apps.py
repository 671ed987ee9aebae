from django.apps import AppConfig


class ProjectsConfig(AppConfig):
    name = "ecgportal.projects"
    label = "projects"

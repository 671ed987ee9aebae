from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "ecgportal.jobs"
    label = "jobs"

from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "ecgportal.jobs"
    label = "jobs"

    def ready(self) -> None:
        from ecgportal.jobs import queue, spare

        queue.when_a_worker_starts(spare.QUEUE, spare.keeper.prepare)

"""django-plotly-dash writes a row per app at its first request; two first requests at a time would clash."""

from django.db import migrations

NAMES = ("EcgView", "TrainingView", "EvaluationView")


def add(apps, schema_editor):
    table = apps.get_model("django_plotly_dash", "StatelessApp")
    for name in NAMES:
        table.objects.get_or_create(app_name=name, defaults={"slug": name.lower()})


class Migration(migrations.Migration):
    dependencies = [("django_plotly_dash", "0002_add_examples")]
    operations = [migrations.RunPython(add, migrations.RunPython.noop)]

from django.db import migrations, models

# Rows of before do not say when their process started, so its id is worth nothing.
FORGET = "UPDATE jobs_job SET pid = NULL WHERE pid IS NOT NULL"


class Migration(migrations.Migration):
    dependencies = [("jobs", "0002_workerbeat")]

    operations = [
        migrations.AddField("job", "pid_started", models.FloatField(null=True)),
        migrations.RunSQL(FORGET, migrations.RunSQL.noop),
        migrations.AddConstraint(
            "job",
            models.CheckConstraint(
                condition=models.Q(("pid__isnull", True), ("pid_started__isnull", True))
                | models.Q(("pid__isnull", False), ("pid_started__isnull", False)),
                name="job_pid_has_start",
            ),
        ),
    ]

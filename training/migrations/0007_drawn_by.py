from django.db import migrations, models

_DRAWN_BY = [
    ("content", "Their content, the same in every portal"),
    ("record_id", "Their ids in this portal, as in runs of earlier versions"),
]


class Migration(migrations.Migration):
    dependencies = [("training", "0006_network_arithmetic")]

    operations = [
        # Runs that are there already were drawn by the records' ids, and go on and are done again in this way.
        migrations.AddField(
            model_name="trainingrun",
            name="drawn_by",
            field=models.CharField(choices=_DRAWN_BY, default="record_id", max_length=12),
        ),
        migrations.AlterField(
            model_name="trainingrun",
            name="drawn_by",
            field=models.CharField(choices=_DRAWN_BY, default="content", max_length=12),
        ),
        migrations.AddConstraint(
            model_name="trainingrun",
            constraint=models.CheckConstraint(
                condition=models.Q(drawn_by__in=["content", "record_id"]), name="run_drawn_by_known"
            ),
        ),
    ]

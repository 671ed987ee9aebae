from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("training", "0007_drawn_by")]

    operations = [
        migrations.AddField(model_name="trial", name="alone", field=models.FloatField(null=True)),
        migrations.AddField(model_name="trial", name="goodness", field=models.FloatField(null=True)),
        migrations.AddConstraint(
            model_name="trial",
            constraint=models.CheckConstraint(
                condition=models.Q(alone__isnull=True) | models.Q(goodness__isnull=False), name="trial_alone_or_beside"
            ),
        ),
    ]

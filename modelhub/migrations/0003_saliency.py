from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("modelhub", "0002_immutable")]
    operations = [
        migrations.AddField("prediction", "saliency", models.JSONField(blank=True, default=dict)),
    ]

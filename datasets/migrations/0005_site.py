from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("datasets", "0004_identifiers"),
    ]

    operations = [
        migrations.AddField(
            model_name="record",
            name="site",
            field=models.CharField(blank=True, default="", max_length=80),
        ),
    ]

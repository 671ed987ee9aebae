from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("datasets", "0008_record_features"),
    ]

    operations = [
        migrations.AddField(
            model_name="record",
            name="is_kept_twin",
            field=models.BooleanField(default=False),
        ),
    ]

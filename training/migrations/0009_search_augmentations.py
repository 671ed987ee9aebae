from django.db import migrations

# What searches tried before they kept it with their settings.
_TRIED = {
    "off": {"noise_mv": 0.0, "scale": 0.0, "shift_s": 0.0, "lead_dropout": 0.0},
    "default": {},
    "strong": {"noise_mv": 0.05, "scale": 0.4, "shift_s": 1.0, "lead_dropout": 0.2},
}


def keep_what_was_tried(apps, schema_editor):
    for study in apps.get_model("training", "Study").objects.filter(kind="search"):
        study.settings = {"augmentations": _TRIED, **study.settings}
        study.save(update_fields=["settings"])


class Migration(migrations.Migration):
    dependencies = [("training", "0008_trial_alone")]

    # A cancelled search can be gone on with, and its trials be trained in full, as they were tried.
    operations = [migrations.RunPython(keep_what_was_tried, migrations.RunPython.noop)]

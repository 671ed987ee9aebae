import django.db.models.deletion
from django.db import migrations, models

_MADE = """
CREATE TABLE datasets_change (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, dataset_id uuid NOT NULL);
CREATE INDEX datasets_change_dataset ON datasets_change (dataset_id);
CREATE FUNCTION datasets_mark_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_TABLE_NAME = 'datasets_recordlabel' THEN
    INSERT INTO datasets_change (dataset_id)
    SELECT DISTINCT r.dataset_id FROM changed c JOIN datasets_record r ON r.id = c.record_id;
  ELSE
    INSERT INTO datasets_change (dataset_id) SELECT DISTINCT c.dataset_id FROM changed c;
  END IF;
  RETURN NULL;
END $$;
"""
_TRIGGER = """
CREATE TRIGGER {table}_{event} AFTER {event} ON {table} REFERENCING {which} TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION datasets_mark_changed();
"""
_TABLES = ("datasets_record", "datasets_recordlabel", "datasets_subject")
_EVENTS = (("insert", "NEW"), ("update", "NEW"), ("delete", "OLD"))

FORWARD = _MADE + "".join(
    _TRIGGER.format(table=table, event=event, which=which) for table in _TABLES for event, which in _EVENTS
)
BACKWARD = (
    "".join(f"DROP TRIGGER {table}_{event} ON {table};\n" for table in _TABLES for event, _ in _EVENTS)
    + "DROP FUNCTION datasets_mark_changed();\nDROP TABLE datasets_change;\n"
)


class Migration(migrations.Migration):
    dependencies = [("datasets", "0011_recording_time")]

    operations = [
        migrations.CreateModel(
            name="DatasetTally",
            fields=[
                (
                    "dataset",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="tally",
                        serialize=False,
                        to="datasets.dataset",
                    ),
                ),
                ("content", models.JSONField(default=dict)),
            ],
            options={"verbose_name_plural": "dataset tallies"},
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]

import django.contrib.postgres.fields
import django.contrib.postgres.indexes
import django.db.models.deletion
from django.db import migrations, models

# signals: whether the change may add a signal, take one away, or call its record otherwise.
_MARKS = """
ALTER TABLE datasets_change ADD COLUMN signals boolean NOT NULL DEFAULT true;
DROP INDEX datasets_change_dataset;
CREATE INDEX datasets_change_dataset ON datasets_change (dataset_id, signals);
CREATE OR REPLACE FUNCTION datasets_mark_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_TABLE_NAME IN ('datasets_recordlabel', 'datasets_recordfeatures') THEN
    INSERT INTO datasets_change (dataset_id, signals)
    SELECT DISTINCT r.dataset_id, false FROM changed c JOIN datasets_record r ON r.id = c.record_id;
  ELSE
    INSERT INTO datasets_change (dataset_id, signals)
    SELECT DISTINCT c.dataset_id, TG_TABLE_NAME = 'datasets_record' FROM changed c;
  END IF;
  RETURN NULL;
END $$;
CREATE FUNCTION datasets_mark_record_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO datasets_change (dataset_id, signals)
  SELECT c.dataset_id, bool_or((b.fingerprint, b.key, b.dataset_id) IS DISTINCT FROM (c.fingerprint, c.key, c.dataset_id))
  FROM changed c LEFT JOIN before b ON b.id = c.id GROUP BY c.dataset_id;
  RETURN NULL;
END $$;
DROP TRIGGER datasets_record_update ON datasets_record;
CREATE TRIGGER datasets_record_update AFTER UPDATE ON datasets_record REFERENCING OLD TABLE AS before NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION datasets_mark_record_changed();
"""
_BACK = """
DROP TRIGGER datasets_record_update ON datasets_record;
DROP FUNCTION datasets_mark_record_changed();
CREATE TRIGGER datasets_record_update AFTER UPDATE ON datasets_record REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION datasets_mark_changed();
CREATE OR REPLACE FUNCTION datasets_mark_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_TABLE_NAME IN ('datasets_recordlabel', 'datasets_recordfeatures') THEN
    INSERT INTO datasets_change (dataset_id)
    SELECT DISTINCT r.dataset_id FROM changed c JOIN datasets_record r ON r.id = c.record_id;
  ELSE
    INSERT INTO datasets_change (dataset_id) SELECT DISTINCT c.dataset_id FROM changed c;
  END IF;
  RETURN NULL;
END $$;
DROP INDEX datasets_change_dataset;
CREATE INDEX datasets_change_dataset ON datasets_change (dataset_id);
ALTER TABLE datasets_change DROP COLUMN signals;
"""


class Migration(migrations.Migration):
    dependencies = [("datasets", "0015_files_of_several_hosts")]

    operations = [
        migrations.CreateModel(
            name="TwinGroup",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("place", models.PositiveIntegerField()),
                ("records", django.contrib.postgres.fields.ArrayField(base_field=models.UUIDField(), size=None)),
                ("is_decided", models.BooleanField()),
                (
                    "dataset",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="twin_groups",
                        to="datasets.dataset",
                    ),
                ),
            ],
            options={
                "ordering": ["place"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("is_decided", False)), fields=["dataset", "place"], name="twin_group_open"
                    ),
                    django.contrib.postgres.indexes.GinIndex(fields=["records"], name="twin_group_records"),
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("dataset", "place"), name="twin_group_place"),
                    models.CheckConstraint(condition=models.Q(("records__len__gt", 1)), name="twin_group_of_several"),
                ],
            },
        ),
        migrations.RunSQL(_MARKS, _BACK),
    ]

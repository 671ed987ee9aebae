from django.db import migrations

_MARK = """
CREATE OR REPLACE FUNCTION datasets_mark_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_TABLE_NAME IN ({tables}) THEN
    INSERT INTO datasets_change (dataset_id)
    SELECT DISTINCT r.dataset_id FROM changed c JOIN datasets_record r ON r.id = c.record_id;
  ELSE
    INSERT INTO datasets_change (dataset_id) SELECT DISTINCT c.dataset_id FROM changed c;
  END IF;
  RETURN NULL;
END $$;
"""
_EVENTS = (("insert", "NEW"), ("update", "NEW"), ("delete", "OLD"))

FORWARD = _MARK.format(tables="'datasets_recordlabel', 'datasets_recordfeatures'") + "".join(
    f"""
CREATE TRIGGER datasets_recordfeatures_{event} AFTER {event} ON datasets_recordfeatures REFERENCING {which} TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION datasets_mark_changed();
"""
    for event, which in _EVENTS
)
BACKWARD = "".join(
    f"DROP TRIGGER datasets_recordfeatures_{event} ON datasets_recordfeatures;\n" for event, _ in _EVENTS
) + _MARK.format(tables="'datasets_recordlabel'")


class Migration(migrations.Migration):
    dependencies = [("datasets", "0012_tallies")]

    operations = [migrations.RunSQL(FORWARD, BACKWARD)]

from django.db import migrations

FORWARD = r"""
CREATE FUNCTION catalogue_entry_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'draft' THEN
            RAISE EXCEPTION 'A catalogue entry begins as a draft.' USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.version_id <> OLD.version_id OR (OLD.state <> 'draft' AND NEW.shown <> OLD.shown) THEN
        RAISE EXCEPTION 'What was proposed for the catalogue does not change.' USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.state <> OLD.state AND (OLD.state, NEW.state) NOT IN (
        ('draft', 'in_review'), ('in_review', 'draft'), ('in_review', 'approved'), ('approved', 'retired')
    ) THEN
        RAISE EXCEPTION 'A catalogue entry does not go from % to %.', OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER catalogue_entry_rules BEFORE INSERT OR UPDATE ON modelhub_catalogueentry
    FOR EACH ROW EXECUTE FUNCTION catalogue_entry_guard();

CREATE FUNCTION catalogue_decision_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- The account behind a decision may be removed; its name stays in the row.
    IF TG_OP = 'UPDATE' AND NEW.decided_by_id IS NULL
       AND to_jsonb(NEW) - 'decided_by_id' = to_jsonb(OLD) - 'decided_by_id' THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'Decisions of the catalogue are append-only.' USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER catalogue_decision_append_only BEFORE UPDATE OR DELETE ON modelhub_cataloguedecision
    FOR EACH ROW EXECUTE FUNCTION catalogue_decision_guard();
"""
BACKWARD = """
DROP TRIGGER catalogue_decision_append_only ON modelhub_cataloguedecision;
DROP FUNCTION catalogue_decision_guard();
DROP TRIGGER catalogue_entry_rules ON modelhub_catalogueentry;
DROP FUNCTION catalogue_entry_guard();
"""


class Migration(migrations.Migration):
    dependencies = [("modelhub", "0004_catalogue")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]

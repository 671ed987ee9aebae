from django.db import migrations

FORWARD = r"""
CREATE FUNCTION model_version_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.sha256 <> OLD.sha256 OR NEW.weights_sha256 <> OLD.weights_sha256 OR NEW.number <> OLD.number
       OR NEW.model_id <> OLD.model_id
       OR (OLD.state = 'ready' AND (NEW.contract <> OLD.contract OR NEW.classes <> OLD.classes OR NEW.task <> OLD.task)) THEN
        RAISE EXCEPTION 'A model version never changes; make a new version.' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER model_version_immutable BEFORE UPDATE ON modelhub_modelversion
    FOR EACH ROW EXECUTE FUNCTION model_version_guard();
"""
BACKWARD = """
DROP TRIGGER model_version_immutable ON modelhub_modelversion;
DROP FUNCTION model_version_guard();
"""


class Migration(migrations.Migration):
    dependencies = [("modelhub", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]

from django.db import migrations

FORWARD = r"""
CREATE OR REPLACE FUNCTION model_version_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.number <> OLD.number OR NEW.model_id <> OLD.model_id
       OR (OLD.state <> 'incomplete' AND (
           NEW.sha256 <> OLD.sha256 OR NEW.weights_sha256 <> OLD.weights_sha256 OR NEW.contract <> OLD.contract
           OR NEW.classes <> OLD.classes OR NEW.task <> OLD.task OR NEW.architecture <> OLD.architecture)) THEN
        RAISE EXCEPTION 'A model version never changes; make a new version.' USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.state = 'incomplete' AND OLD.state <> 'incomplete' THEN
        RAISE EXCEPTION 'A complete model version stays complete.' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION model_alias_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM modelhub_modelversion v WHERE v.id = NEW.version_id AND v.model_id = NEW.model_id) THEN
        RAISE EXCEPTION 'An alias points to a version of its own model.' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER model_alias_own_version BEFORE INSERT OR UPDATE ON modelhub_modelalias
    FOR EACH ROW EXECUTE FUNCTION model_alias_guard();
"""
BACKWARD = r"""
DROP TRIGGER model_alias_own_version ON modelhub_modelalias;
DROP FUNCTION model_alias_guard();
CREATE OR REPLACE FUNCTION model_version_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.sha256 <> OLD.sha256 OR NEW.weights_sha256 <> OLD.weights_sha256 OR NEW.number <> OLD.number
       OR NEW.model_id <> OLD.model_id
       OR (OLD.state = 'ready' AND (NEW.contract <> OLD.contract OR NEW.classes <> OLD.classes OR NEW.task <> OLD.task)) THEN
        RAISE EXCEPTION 'A model version never changes; make a new version.' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("modelhub", "0006_completion")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]

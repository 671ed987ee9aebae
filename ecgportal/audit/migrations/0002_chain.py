from django.db import migrations

FORWARD = r"""
CREATE FUNCTION audit_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        IF current_setting('portal.audit_truncate', true) = 'on' THEN RETURN NULL; END IF;
        RAISE EXCEPTION 'The audit trail is append-only.' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.hash = '' AND NEW.hash <> '' AND NEW.payload = OLD.payload
       AND NEW.action = OLD.action AND NEW.at = OLD.at AND NEW.changes = OLD.changes AND pg_trigger_depth() > 1 THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'The audit trail is append-only.' USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit_auditevent
    FOR EACH ROW EXECUTE FUNCTION audit_guard();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit_auditevent
    FOR EACH STATEMENT EXECUTE FUNCTION audit_guard();

CREATE FUNCTION audit_seal() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last_sequence bigint;
    last_hash text;
BEGIN
    PERFORM pg_advisory_xact_lock(727501);
    SELECT sequence, hash INTO last_sequence, last_hash
        FROM audit_auditevent WHERE sequence IS NOT NULL ORDER BY sequence DESC LIMIT 1;
    UPDATE audit_auditevent
        SET sequence = COALESCE(last_sequence, 0) + 1,
            hash = encode(sha256(convert_to(COALESCE(last_hash, '') || E'\n' || NEW.payload, 'UTF8')), 'hex')
        WHERE id = NEW.id;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER audit_chain AFTER INSERT ON audit_auditevent
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION audit_seal();
"""

BACKWARD = """
DROP TRIGGER audit_chain ON audit_auditevent;
DROP FUNCTION audit_seal();
DROP TRIGGER audit_no_truncate ON audit_auditevent;
DROP TRIGGER audit_append_only ON audit_auditevent;
DROP FUNCTION audit_guard();
"""


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]

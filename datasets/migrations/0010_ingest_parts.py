import django.db.models.deletion
import uuid
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('datasets', '0009_kept_twin'),
        ('jobs', '0002_workerbeat'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='IngestPart',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('number', models.PositiveIntegerField()),
                ('work', models.JSONField()),
                ('found', models.JSONField(default=dict)),
                ('n_files', models.PositiveIntegerField(default=0)),
                ('is_done', models.BooleanField(default=False)),
                ('taken_attempt', models.PositiveSmallIntegerField(default=0)),
                ("host", models.CharField(blank=True, default="", max_length=120)),
            ],
            options={
                'ordering': ['number', 'id'],
            },
        ),
        migrations.AddField(
            model_name='ingest',
            name='stage',
            field=models.PositiveSmallIntegerField(choices=[(0, 'nothing planned'), (1, 'archives are unpacked'), (2, 'headers of several segments are read'), (3, 'other headers are read'), (4, 'files that belong to no header are read'), (5, 'all files are read')], default=0, editable=False),
        ),
        migrations.AddConstraint(
            model_name='ingest',
            constraint=models.CheckConstraint(condition=models.Q(('stage__in', [0, 1, 2, 3, 4, 5])), name='ingest_stage_known'),
        ),
        migrations.RunSQL(
            "UPDATE datasets_ingestitem SET name = '(deleted ' || position || ')' WHERE name = '(deleted)'", migrations.RunSQL.noop
        ),
        migrations.AddConstraint(
            model_name='ingestitem',
            constraint=models.UniqueConstraint(fields=('ingest', 'name'), name='item_name_once'),
        ),
        migrations.AddField(
            model_name='ingestpart',
            name='ingest',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='parts', to='datasets.ingest'),
        ),
        migrations.AddField(
            model_name='ingestpart',
            name='taken_by',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='jobs.job'),
        ),
        migrations.AddIndex(
            model_name='ingestpart',
            index=models.Index(condition=models.Q(('is_done', False)), fields=['ingest', 'number'], name='part_not_done'),
        ),
        migrations.AddConstraint(
            model_name='ingestpart',
            constraint=models.UniqueConstraint(fields=('ingest', 'number'), name='part_once'),
        ),
    ]

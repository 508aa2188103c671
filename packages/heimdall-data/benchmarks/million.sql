-- n_sessions (a number replaces it), seven measurements each: 5,000 sources, 12 stations, a
-- session a minute.
-- Every object's key leads to one of the few recordings that the benchmark really stores.
INSERT INTO heimdall.websdr_stations (id, name, latitude, longitude)
SELECT gen_random_uuid(), 'station ' || n, 44 + n * 0.2, 7 + n * 0.2
FROM generate_series(1, 12) AS n;

INSERT INTO heimdall.known_sources (id, name, frequency_hz, latitude, longitude, source_type,
                                    error_margin_meters)
SELECT md5('source' || n)::uuid, 'source ' || n, 145000000, 44 + (n % 71) * 0.03,
       7 + (n % 97) * 0.03, CASE WHEN n % 4 = 0 THEN 'beacon' ELSE 'repeater' END, 50
FROM generate_series(1, 5000) AS n;

INSERT INTO heimdall.recording_sessions (id, known_source_id, session_name, session_start,
                                         celery_task_id, status, approval_status)
SELECT md5('session' || n)::uuid, md5('source' || (1 + n % 5000))::uuid, 'session ' || n,
       timestamptz '2024-01-01 UTC' + n * interval '1 minute', 'task-' || n, 'completed',
       CASE WHEN n % 20 = 0 THEN 'pending' ELSE 'approved' END
FROM generate_series(1, n_sessions) AS n;

ALTER TABLE heimdall.measurements DROP CONSTRAINT measurements_pkey;
DROP INDEX heimdall.measurements_session, heimdall.measurements_station;
INSERT INTO heimdall.measurements (id, timestamp, websdr_station_id, recording_session_id,
                                   frequency_hz, signal_strength_db, snr_db, iq_data_location,
                                   iq_data_format, iq_sample_rate)
SELECT gen_random_uuid(), timestamptz '2024-01-01 UTC' + n * interval '1 minute', st.id,
       md5('session' || n)::uuid, 145000000, -60, 5 + (n + k) % 40,
       's3://heimdall-raw-iq/sessions/same/' || st.name || '.npy', 'npy', 48000
FROM generate_series(1, n_sessions) AS n, generate_series(0, 6) AS k,
LATERAL (SELECT id, name FROM heimdall.websdr_stations
         WHERE name = 'station ' || (1 + (n * 5 + k) % 12)) AS st;
ALTER TABLE heimdall.measurements ADD PRIMARY KEY (timestamp, id);
CREATE INDEX measurements_session ON heimdall.measurements (recording_session_id);
CREATE INDEX measurements_station ON heimdall.measurements (websdr_station_id);
VACUUM ANALYZE heimdall.measurements;
VACUUM ANALYZE heimdall.recording_sessions;
ANALYZE heimdall.known_sources;
ANALYZE heimdall.websdr_stations;

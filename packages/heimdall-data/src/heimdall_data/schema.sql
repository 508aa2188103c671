-- The catalogue as the backend has it, for a fresh stack: names and types are the contract's.
-- Safe to run again; never alters a table that is there.

CREATE SCHEMA IF NOT EXISTS heimdall;

CREATE TABLE IF NOT EXISTS heimdall.websdr_stations (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    url text,
    country text,
    latitude float8 NOT NULL,
    longitude float8 NOT NULL,
    altitude_asl int,
    is_active bool NOT NULL DEFAULT true
);

CREATE TABLE IF NOT EXISTS heimdall.known_sources (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    frequency_hz bigint,
    latitude float8,
    longitude float8,
    power_dbm float8,
    source_type text,
    is_validated bool NOT NULL DEFAULT false,
    error_margin_meters float8
);

CREATE TABLE IF NOT EXISTS heimdall.recording_sessions (
    id uuid PRIMARY KEY,
    known_source_id uuid NOT NULL REFERENCES heimdall.known_sources (id),
    session_name text NOT NULL,
    session_start timestamptz NOT NULL,
    session_end timestamptz,
    duration_seconds float8,
    celery_task_id text,
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'in_progress', 'completed', 'failed')),
    approval_status text NOT NULL DEFAULT 'pending'
        CHECK (approval_status IN ('pending', 'approved', 'rejected'))
);

CREATE TABLE IF NOT EXISTS heimdall.measurements (
    id uuid NOT NULL,
    timestamp timestamptz NOT NULL,
    websdr_station_id uuid NOT NULL REFERENCES heimdall.websdr_stations (id),
    recording_session_id uuid REFERENCES heimdall.recording_sessions (id),
    frequency_hz bigint NOT NULL,
    signal_strength_db float8,
    snr_db float8,
    frequency_offset_hz int,
    iq_data_location text,
    iq_data_format text,
    iq_sample_rate int,
    iq_samples_count int,
    duration_seconds float8,
    PRIMARY KEY (timestamp, id)
);

CREATE INDEX IF NOT EXISTS known_sources_name ON heimdall.known_sources (name);
CREATE INDEX IF NOT EXISTS recording_sessions_source
    ON heimdall.recording_sessions (known_source_id);
CREATE INDEX IF NOT EXISTS recording_sessions_usable
    ON heimdall.recording_sessions (session_start, id)
    WHERE approval_status = 'approved' AND status = 'completed';
CREATE INDEX IF NOT EXISTS recording_sessions_task
    ON heimdall.recording_sessions (celery_task_id);
CREATE INDEX IF NOT EXISTS measurements_session
    ON heimdall.measurements (recording_session_id);
CREATE INDEX IF NOT EXISTS measurements_station
    ON heimdall.measurements (websdr_station_id);
-- What was recorded before there was a recording_session_id belongs by its key.
CREATE INDEX IF NOT EXISTS measurements_task
    ON heimdall.measurements (substring(iq_data_location FROM '(?:^|/)sessions/([^/]+)/'))
    WHERE recording_session_id IS NULL AND iq_data_location IS NOT NULL;

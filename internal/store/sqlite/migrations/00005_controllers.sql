-- Several controllers on one database: who they are, and which of them moves which runner. The rows of controllers belong to
-- processes that run: they do not move with a site. What is in site does.

-- +goose Up
ALTER TABLE runners ADD COLUMN controller TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN controller TEXT NOT NULL DEFAULT '';

CREATE TABLE controllers (
    name        TEXT    NOT NULL PRIMARY KEY,
    driver      TEXT    NOT NULL,
    machine     TEXT    NOT NULL,
    version     TEXT    NOT NULL,
    endpoint    TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    started_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What is one for the whole site: its mark on everything that it makes elsewhere.
CREATE TABLE site (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE site;
DROP TABLE controllers;
ALTER TABLE hosts DROP COLUMN controller;
ALTER TABLE runners DROP COLUMN controller;

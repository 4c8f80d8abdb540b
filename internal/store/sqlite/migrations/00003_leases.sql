-- Who owns something now, until when. The rows belong to processes that run: they do not move with a site.

-- +goose Up
CREATE TABLE leases (
    name   TEXT    NOT NULL PRIMARY KEY,
    holder TEXT    NOT NULL,
    epoch  INTEGER NOT NULL,
    until  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX leases_until ON leases (until);

-- +goose Down
DROP TABLE leases;

-- Who owns something now, until when. The rows belong to processes that run: they do not move with a site.

-- +goose Up
CREATE TABLE leases (
    name   TEXT   COLLATE "C" NOT NULL PRIMARY KEY,
    holder TEXT   COLLATE "C" NOT NULL,
    epoch  BIGINT NOT NULL,
    until  BIGINT NOT NULL
);

CREATE INDEX leases_until ON leases (until);

-- +goose Down
DROP TABLE leases;

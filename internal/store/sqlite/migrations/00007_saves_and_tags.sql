-- Nothing: the versions of both engines are the same, and this one is PostgreSQL's alone. One process writes here.

-- +goose Up
SELECT 1;

-- +goose Down
SELECT 1;

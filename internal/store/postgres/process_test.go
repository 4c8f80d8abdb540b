package postgres_test

func role() bool { return false }

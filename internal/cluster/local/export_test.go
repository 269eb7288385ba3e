package local

// Key is the short name that a cluster's things have on the machine.
func Key(c Config, id string) string { return New(c).cluster(id).key }

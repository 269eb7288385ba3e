// Package digest names what Berth writes into clusters by its content, so that an annotation tells whether it has changed.
package digest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Of is the same for what is the same as JSON. It panics for what cannot be marshalled: it is for what goes to an API server.
func Of(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

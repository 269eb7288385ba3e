// Package edge is where clients come in: one port that speaks TLS and plain HTTP, routes
// requests by host, and lets clients with Azure's host names compiled in reach Berth
// through an intercepting proxy.
//
//	first byte 0x16 ──────────────► TLS (own CA) ──► route by Host ──► backend
//	plain: CONNECT own name:443 ──┘                     └─ own address: by path
//	       CONNECT anything else ──► bytes, untouched
//	       GET /ca.pem
//
// It knows names and paths, not what the backends do with them; it authenticates
// nobody. Its invariant: only names that this installation owns are ever answered for.
package edge

// Package identity is Berth's token service: it knows the principals of the
// installation's one tenant, signs them in the way Microsoft Entra does (so that
// MSAL, azure-cli and azidentity work unmodified), and verifies the bearer tokens
// that ARM and the data plane receive.
//
// It knows nothing of resources or roles: it answers who is asking, never what they
// may do. Its invariant: no password, client secret, code or refresh token is stored
// or logged in a form that could be used, and nothing but the private signing keys
// (sealed by the store) has to be kept secret at rest.
package identity

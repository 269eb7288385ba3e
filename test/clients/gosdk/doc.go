// Package gosdk holds the suite that runs the published Azure SDKs for Go, unmodified, against a
// Berth of its own: each test once through a custom cloud (cloud.Configuration) and once
// through interception, as berth run sets it up.
package gosdk

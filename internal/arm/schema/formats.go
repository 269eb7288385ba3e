package schema

import (
	"encoding/pem"
	"net/netip"
	"regexp"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/arm/armid"
)

var hostname = regexp.MustCompile(`^(\*\.)?([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$`)

// formats maps a format's name to a check that returns the broken rule, or "".
var formats = map[string]func(string) string{
	"cidr": func(s string) string {
		if p, err := netip.ParsePrefix(s); err != nil || !p.Addr().Is4() {
			return "it must be an IPv4 range in CIDR notation, such as 10.0.0.0/16"
		}
		return ""
	},
	"ipv4": func(s string) string {
		if a, err := netip.ParseAddr(s); err != nil || !a.Is4() {
			return "it must be an IPv4 address, such as 10.0.0.10"
		}
		return ""
	},
	"armid": func(s string) string {
		if _, err := armid.Parse(s); err != nil {
			return "it must be a full resource ID, /subscriptions/…/resourceGroups/…/providers/…; " + err.Error()
		}
		return ""
	},
	"guid": func(s string) string {
		if len(s) != 36 || uuid.Validate(s) != nil {
			return "it must be a GUID"
		}
		return ""
	},
	"hostname": func(s string) string {
		if len(s) > 253 || !hostname.MatchString(s) {
			return "it must be a host name of labels of letters, digits and dashes"
		}
		return ""
	},
	"pem": func(s string) string {
		if b, _ := pem.Decode([]byte(s)); b == nil {
			return "it must be PEM text, beginning with -----BEGIN"
		}
		return ""
	},
}

// Testcount adds up JUnit files of several test runners and prints one count over all of
// them. It fails when a test failed, when a suite could not start, and under CI=true when
// a test was skipped: what is skipped there is skipped for want of something.
package main

import (
	"encoding/xml"
	"flag"
	"fmt"
	"os"
	"strings"
)

type suites struct {
	Suites []suite `xml:"testsuite"`
}

type suite struct {
	Name  string     `xml:"name,attr"`
	Cases []testcase `xml:"testcase"`
}

type testcase struct {
	Class   string    `xml:"classname,attr"`
	Name    string    `xml:"name,attr"`
	Failure *struct{} `xml:"failure"`
	Error   *struct{} `xml:"error"`
	Skipped *struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	} `xml:"skipped"`
}

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	var broken list
	flag.Var(&broken, "broken", "a suite that could not start; may be repeated")
	flag.Parse()
	passed, failed, skipped := 0, 0, 0
	for _, name := range broken {
		if name != "" {
			fmt.Printf("FAIL  the suite %s could not run\n", name)
			failed++
		}
	}
	for _, path := range flag.Args() {
		data, err := os.ReadFile(path)
		if err != nil {
			fmt.Println("FAIL ", err)
			failed++
			continue
		}
		var all suites
		if err := xml.Unmarshal(data, &all); err != nil {
			fmt.Printf("FAIL  %s: %v\n", path, err)
			failed++
			continue
		}
		for _, s := range all.Suites {
			for _, c := range s.Cases {
				switch {
				case c.Failure != nil || c.Error != nil:
					failed++
					fmt.Println("FAIL ", c.Class, c.Name)
				case c.Skipped != nil:
					skipped++
					fmt.Println("SKIP ", c.Class, c.Name, strings.TrimSpace(c.Skipped.Message+c.Skipped.Text))
				default:
					passed++
				}
			}
		}
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	if failed > 0 || passed == 0 || skipped > 0 && os.Getenv("CI") == "true" {
		os.Exit(1)
	}
}

module github.com/berthdev/berth

go 1.26

// Package sqlite keeps Berth's state in one SQLite file, without cgo.
//
// Writes go through one goroutine that puts what waits into one SQLite transaction, each
// Update in a savepoint of its own (group commit): every Update is durable when it
// returns, and many at once cost one flush to the disk. Reads run beside it, each on a
// snapshot. A file has one owner: a lock beside it keeps a second process out.
package sqlite

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"modernc.org/sqlite" // also the database/sql driver
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/berthdev/berth/internal/store"
)

//go:embed schema.sql
var schema1 string

// migrations are applied in order; the number of the last one is the file's version.
var migrations = []string{schema1}

// Sealer encrypts secrets for the row that identity names.
type Sealer interface {
	Seal(identity string, value []byte) ([]byte, error)
	Open(identity string, sealed []byte) ([]byte, error)
}

// Config says where the file is.
type Config struct {
	Path   string // its folder is made, with mode 0700
	Sealer Sealer
}

// Store is a store.Store in a SQLite file.
type Store struct {
	sealer  Sealer
	db      *sql.DB
	lock    *os.File
	readers chan *conn
	jobs    chan *job
	woken   chan struct{}
	closing chan struct{}
	closed  sync.WaitGroup
	once    sync.Once
}

var _ store.Store = (*Store)(nil)

// ErrClosed says that the store was closed.
var ErrClosed = errors.New("the store is closed")

// Open opens or makes the file. Errors name what is wrong with it and what to do.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o700); err != nil {
		return nil, fmt.Errorf("making the store's folder: %w", err)
	}
	lock, err := takeLock(cfg.Path + ".lock")
	if err != nil {
		return nil, err
	}
	s := &Store{
		sealer: cfg.Sealer, lock: lock, jobs: make(chan *job, 256), woken: make(chan struct{}, 1), closing: make(chan struct{}),
		readers: make(chan *conn, max(4, runtime.NumCPU())),
	}
	if err := s.open(ctx, cfg.Path); err != nil {
		if s.db != nil {
			err = errors.Join(err, s.db.Close())
		}
		return nil, errors.Join(fmt.Errorf("opening the store %s: %w", cfg.Path, err), lock.Close())
	}
	return s, nil
}

// lockPatience is how long a start waits for the lock: a process that was killed has it until
// its last thread has ended, a moment after it seems to be gone.
const lockPatience = 2 * time.Second

// takeLock keeps a second process away from the file; the kernel drops the lock when the
// process ends, however it ends.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the store's lock: %w", err)
	}
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(10 * time.Millisecond) {
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return f, nil
		} else if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("the store is in use by another berth (lock %s). Stop that one, or choose another BERTH_HOME", path), f.Close())
		}
	}
}

func (s *Store) open(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) // so that SQLite does not choose the mode
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	q := url.Values{"_pragma": {"journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(10000)", "foreign_keys(ON)", "cache_size(-4000)"}}
	if s.db, err = sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode()); err != nil {
		return err
	}
	writer, err := newConn(ctx, s.db)
	if err != nil {
		return err
	}
	if err := migrate(ctx, writer.c); err != nil {
		return err
	}
	// The file's former owner is gone, and its leases with it.
	if _, err := writer.c.ExecContext(ctx, "UPDATE wakeups SET token = NULL, lease_until = NULL"); err != nil {
		return err
	}
	for range cap(s.readers) {
		r, err := newConn(ctx, s.db)
		if err != nil {
			return err
		}
		if _, err := r.c.ExecContext(ctx, "PRAGMA query_only = ON"); err != nil {
			return err
		}
		s.readers <- r
	}
	s.closed.Add(1)
	go s.write(writer)
	return nil
}

func migrate(ctx context.Context, c *sql.Conn) error {
	var version int
	if err := c.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > len(migrations) {
		return fmt.Errorf("it was written by a newer Berth (store version %d; this one knows %d). Start that version again", version, len(migrations))
	}
	for ; version < len(migrations); version++ {
		if _, err := c.ExecContext(ctx, fmt.Sprintf("BEGIN IMMEDIATE; %s; PRAGMA user_version = %d; COMMIT", migrations[version], version+1)); err != nil {
			return err
		}
	}
	return nil
}

// Close waits for what is being written, then closes the file.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		close(s.closing)
		s.closed.Wait()
		for range cap(s.readers) {
			err = errors.Join(err, (<-s.readers).close())
		}
		err = errors.Join(err, s.db.Close(), s.lock.Close())
	})
	return err
}

// Woken is signalled after an Update that added a wake-up.
func (s *Store) Woken() <-chan struct{} { return s.woken }

// usable refuses calls of those who gave up already, and of all once the store closes.
func (s *Store) usable(ctx context.Context) error {
	select {
	case <-s.closing:
		return ErrClosed
	default:
		return ctx.Err()
	}
}

// View runs fn on a snapshot.
func (s *Store) View(ctx context.Context, fn func(store.ReadTx) error) (err error) {
	if err := s.usable(ctx); err != nil {
		return err
	}
	var c *conn
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return ErrClosed
	case c = <-s.readers:
	}
	defer func() { s.readers <- c }()
	// Not the caller's context: a query that is cut off would break the connection for the next.
	quiet := context.WithoutCancel(ctx)
	if err := c.exec(quiet, "BEGIN"); err != nil {
		return err
	}
	defer func() {
		if e := c.exec(quiet, "ROLLBACK"); err == nil {
			err = e
		}
	}()
	return fn(&tx{ctx: quiet, c: c, sealer: s.sealer})
}

// job is one Update on its way to the writer.
type job struct {
	ctx   context.Context
	fn    func(*tx) error
	err   error
	panic any
	woke  bool
	done  chan struct{}
}

// Update runs fn in a durable transaction.
func (s *Store) Update(ctx context.Context, fn func(store.Tx) error) error {
	return s.submit(ctx, func(t *tx) error { return fn(t) })
}

func (s *Store) submit(ctx context.Context, fn func(*tx) error) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	j := &job{ctx: ctx, fn: fn, done: make(chan struct{})}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return ErrClosed
	case s.jobs <- j:
	}
	<-j.done // what was handed over is carried out; its outcome is not left open
	if j.panic != nil {
		panic(j.panic)
	}
	return j.err
}

const largestBatch = 64 // Updates in one commit

// write is the one goroutine that writes.
func (s *Store) write(c *conn) {
	defer s.closed.Done()
	defer func() { _ = c.close() }() // everything is committed; a failure to close changes nothing
	for {
		select {
		case j := <-s.jobs:
			s.commit(c, s.batch(j))
		case <-s.closing:
			for {
				select {
				case j := <-s.jobs:
					s.commit(c, s.batch(j))
				default:
					return
				}
			}
		}
	}
}

// batch takes what waits beside the first job.
func (s *Store) batch(first *job) []*job {
	jobs := []*job{first}
	for len(jobs) < largestBatch {
		select {
		case j := <-s.jobs:
			jobs = append(jobs, j)
		default:
			return jobs
		}
	}
	return jobs
}

func (s *Store) commit(c *conn, jobs []*job) {
	ctx := context.Background()
	err := c.exec(ctx, "BEGIN IMMEDIATE")
	woke := false
	if err == nil {
		for _, j := range jobs {
			if j.err = j.ctx.Err(); j.err == nil {
				j.err = s.run(ctx, c, j)
			}
			woke = woke || j.woke
		}
		if err = c.exec(ctx, "COMMIT"); err != nil {
			_ = c.exec(ctx, "ROLLBACK") // the commit's error is the one that matters
		}
	}
	for _, j := range jobs {
		if err != nil && j.err == nil {
			j.err = fmt.Errorf("writing the store: %w", err)
		}
		close(j.done)
	}
	if woke && err == nil {
		select {
		case s.woken <- struct{}{}:
		default:
		}
	}
}

// run carries out one job in a savepoint, so that its failure does not touch the others.
func (s *Store) run(ctx context.Context, c *conn, j *job) (err error) {
	if err := c.exec(ctx, "SAVEPOINT job"); err != nil {
		return err
	}
	t := &tx{ctx: ctx, c: c, sealer: s.sealer}
	defer func() {
		j.panic = recover()
		end := "RELEASE job"
		if err != nil || j.panic != nil {
			end = "ROLLBACK TO job"
			defer func() { _ = c.exec(ctx, "RELEASE job") }()
		} else {
			j.woke = t.woke
		}
		if e := c.exec(ctx, end); err == nil {
			err = e
		}
	}()
	return j.fn(t)
}

// conn is a connection with its prepared statements.
type conn struct {
	c     *sql.Conn
	stmts map[string]*sql.Stmt
}

func newConn(ctx context.Context, db *sql.DB) (*conn, error) {
	c, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{c: c, stmts: map[string]*sql.Stmt{}}, nil
}

// close gives the connection back; sql.DB leaves alone what is not.
func (c *conn) close() error {
	var err error
	for _, st := range c.stmts {
		err = errors.Join(err, st.Close())
	}
	return errors.Join(err, c.c.Close())
}

func (c *conn) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if st, ok := c.stmts[query]; ok {
		return st, nil
	}
	st, err := c.c.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	c.stmts[query] = st
	return st, nil
}

func (c *conn) exec(ctx context.Context, query string, args ...any) error {
	_, err := c.execN(ctx, query, args...)
	return err
}

func (c *conn) execN(ctx context.Context, query string, args ...any) (int64, error) {
	st, err := c.prepare(ctx, query)
	if err != nil {
		return 0, err
	}
	res, err := st.ExecContext(ctx, args...)
	var failed *sqlite.Error
	if errors.As(err, &failed) && slices.Contains([]int{sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}, failed.Code()&0xff) {
		return 0, fmt.Errorf("%w: %w", store.ErrDisk, err)
	}
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func nanos(t time.Time) int64 { return t.UnixNano() }

func optionalNanos(t *time.Time) any {
	if t == nil {
		return nil
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time { return time.Unix(0, n).UTC() }

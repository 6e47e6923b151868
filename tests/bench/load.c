/*
 * The load generator: keeps requests in flight on connections that are already open, counts the answers by
 * their newlines, or by their lengths in HTTP, and looks into each for its id and for an error. It is in C because
 * it has to take little of a core beside servers that answer tens of thousands of calls a second; load.py builds
 * and runs it.
 *
 *   load SECONDS WARM_UP DEPTH GAP TOLERANT TEMPLATES PATTERN PIDS HEAD IN:OUT...
 *
 * TEMPLATES is a file with one request a line; each of the DEPTH chains of a connection sends them in turn. In a
 * template @ID@ stands for the id of the request, and @LEASE@ for the lease in the answer before. A chain sends
 * at most one request in GAP seconds. PATTERN is counted in the answers. PIDS (separated by commas) are processes
 * whose CPU time is read at both ends of the window. IN:OUT are file descriptors. HEAD is empty, or a file with the
 * request line and headers of HTTP that each request is sent with; its length is added, and answers have theirs.
 *
 * Prints one line of JSON. Ends with status 1 and the answer at the first that is an error, has the id of no
 * request in flight, or lacks the lease that the next request needs. If TOLERANT is 1, errors are only counted.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { STEPS = 8, PIDS = 64, LEASE = 4096, FIRST_ID = 1000000000, ENDS = 64, EVENTS = 256, ERROR_LENGTH = 16384 };
static const double DRAIN = 60, EXTENSION = 10; /* seconds */

struct buffer { char *data; size_t used, room; };
struct connection { int in, out; bool stuck; struct buffer received, unsent; };
struct slot { uint64_t id, turn; int step; double sent; size_t lease_length; char lease[LEASE]; };
struct template { char *text; size_t length; };

static struct template templates[STEPS];
static struct slot *slots;
static size_t step_count, slot_count, in_flight;
static uint64_t calls, cycles, tally, timed, failed;
static struct buffer latencies; /* floats */
static bool counting, ending, tolerant;
static const char *pattern;
static char *head; /* of each request, if it is one of HTTP */
static size_t head_length;

static void die(const char *why, const char *data, size_t length)
{
    fprintf(stderr, "%s: %.*s\n", why, (int)(length < 600 ? length : 600), data);
    exit(1);
}

static double clock_seconds(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time) != 0)
        die("no such clock", strerror(errno), 100);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* The clock of a process's CPU time, all threads together, as the kernel builds its number from the pid. */
static clockid_t cpu_clock(int pid)
{
    return (clockid_t)((~(unsigned)pid << 3) | 2);
}

static char *space(struct buffer *buffer, size_t wanted)
{
    if (buffer->room - buffer->used < wanted) {
        buffer->room = (buffer->used + wanted) * 2;
        buffer->data = realloc(buffer->data, buffer->room);
        if (buffer->data == NULL)
            die("out of memory", "", 0);
    }
    return buffer->data + buffer->used;
}

static void append(struct buffer *buffer, const void *data, size_t length)
{
    memcpy(space(buffer, length), data, length);
    buffer->used += length;
}

static void request(struct connection *connection, struct slot *slot, double now)
{
    const struct template *template = &templates[slot->step];
    const char *rest = template->text, *end = rest + template->length, *mark;
    char number[24], length[64];
    slot->id = FIRST_ID + (uint64_t)(slot - slots) + slot_count * slot->turn++;
    if (head != NULL) {
        end--; /* the newline; an id takes ten digits instead of the four characters of its mark */
        append(&connection->unsent, head, head_length);
        append(&connection->unsent, length,
               (size_t)sprintf(length, "Content-Length: %zu\r\n\r\n", (size_t)(end - rest) + 6));
    }
    while ((mark = memchr(rest, '@', (size_t)(end - rest))) != NULL) {
        append(&connection->unsent, rest, (size_t)(mark - rest));
        rest = mark;
        if (end - mark >= 4 && memcmp(mark, "@ID@", 4) == 0) {
            append(&connection->unsent, number, (size_t)sprintf(number, "%llu", (unsigned long long)slot->id));
            rest += 4;
        } else if (end - mark >= 7 && memcmp(mark, "@LEASE@", 7) == 0) {
            append(&connection->unsent, slot->lease, slot->lease_length);
            rest += 7;
        } else {
            append(&connection->unsent, rest++, 1);
        }
    }
    append(&connection->unsent, rest, (size_t)(end - rest));
    slot->sent = now;
    in_flight++;
}

static bool contains(const char *line, size_t length, const char *what)
{
    return memmem(line, length, what, strlen(what)) != NULL;
}

/* The id of an answer is a number near its beginning or its end; ids of entries are strings. */
static uint64_t id_of(const char *line, size_t length)
{
    size_t part = length < ENDS ? length : ENDS;
    const char *found = memmem(line, part, "\"id\":1", 6);
    if (found == NULL)
        found = memmem(line + length - part, part, "\"id\":1", 6);
    return found == NULL ? 0 : strtoull(found + 5, NULL, 10);
}

static void answer(struct connection *connection, const char *line, size_t length, double now, double gap)
{
    size_t looked = length < ERROR_LENGTH ? length : ERROR_LENGTH; /* no error is longer */
    if (contains(line, looked, "\"isError\":true") || contains(line, looked, "\"error\":{")) {
        if (!tolerant)
            die("a call failed", line, length);
        failed++;
    }
    uint64_t id = id_of(line, length);
    if (id == 0)
        return; /* a notification */
    struct slot *slot = &slots[(id - FIRST_ID) % slot_count];
    if (slot->id != id)
        die("an answer to no request in flight", line, length);
    slot->id = 0;
    in_flight--;
    if (counting || ending) /* what the end finds in flight took its time, too, perhaps the longest */
        append(&latencies, &(float){(float)(now - slot->sent)}, sizeof(float)), timed++;
    if (counting) {
        calls++;
        cycles += (size_t)slot->step + 1 == step_count;
        const char *rest = line, *end = line + length, *found;
        while (*pattern && (found = memmem(rest, (size_t)(end - rest), pattern, strlen(pattern))) != NULL) {
            tally++;
            rest = found + strlen(pattern);
        }
    }
    slot->step = (int)(((size_t)slot->step + 1) % step_count);
    if (contains(templates[slot->step].text, templates[slot->step].length, "@LEASE@")) {
        const char *lease = memmem(line, length, "\"lease\":\"", 9), *end;
        if (lease == NULL || (end = memchr(lease + 9, '"', length - (size_t)(lease + 9 - line))) == NULL
            || (slot->lease_length = (size_t)(end - lease - 9)) > LEASE)
            die("an answer without a lease", line, length);
        memcpy(slot->lease, lease + 9, slot->lease_length);
    }
    if (ending)
        return;
    if (gap > 0 && now < slot->sent + gap) {
        usleep((useconds_t)((slot->sent + gap - now) * 1e6));
        now = clock_seconds(CLOCK_MONOTONIC);
    }
    request(connection, slot, now);
}

/* Return how long the body of the answer of HTTP is that begins there, or -1 as long as its head is not whole. */
static ssize_t body_length(const char *answer, const char *body)
{
    char *found;
    if (body == NULL)
        return -1;
    if (strncmp(answer, "HTTP/1.1 200 ", 13) != 0 && !tolerant)
        die("a call failed", answer, (size_t)(body - answer) + 200);
    found = strcasestr(answer, "\r\nContent-Length:");
    if (found == NULL || found > body)
        die("an answer without a length", answer, (size_t)(body - answer));
    return strtol(found + 17, NULL, 10);
}

/* Take the answers of HTTP that are whole, and return where the rest begins. */
static char *answers_of_http(struct connection *connection, char *rest, char *end, double now, double gap)
{
    for (;;) {
        char *body = memmem(rest, (size_t)(end - rest), "\r\n\r\n", 4);
        ssize_t length = body_length(rest, body);
        if (length < 0 || end - body - 4 < length)
            return rest;
        answer(connection, body + 4, (size_t)length, now, gap);
        rest = body + 4 + length;
    }
}

static void receive(struct connection *connection, double now, double gap)
{
    struct buffer *buffer = &connection->received;
    char *data = space(buffer, 1 << 18), *line = buffer->data, *newline;
    ssize_t got = read(connection->in, data, buffer->room - buffer->used);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        die("the server closed the connection", got < 0 ? strerror(errno) : "", 60);
    buffer->used += (size_t)got;
    char *end = buffer->data + buffer->used;
    if (head != NULL) {
        *space(buffer, 1) = 0; /* so that strings end there */
        line = buffer->data;
        end = buffer->data + buffer->used;
        line = answers_of_http(connection, line, end, now, gap);
    } else {
        while ((newline = memchr(data, '\n', (size_t)(end - data))) != NULL) {
            answer(connection, line, (size_t)(newline - line), now, gap);
            line = data = newline + 1;
        }
    }
    buffer->used = (size_t)(end - line);
    memmove(buffer->data, line, buffer->used);
}

static void watch(int epoll, int what, int descriptor, uint32_t events, struct connection *connection)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(epoll, what, descriptor, &event) != 0)
        die("epoll_ctl", strerror(errno), 60);
}

static void transmit(int epoll, struct connection *connection)
{
    struct buffer *buffer = &connection->unsent;
    ssize_t sent = buffer->used ? write(connection->out, buffer->data, buffer->used) : 0;
    if (sent < 0 && errno != EAGAIN)
        die("cannot send", strerror(errno), 60);
    if (sent > 0) {
        buffer->used -= (size_t)sent;
        memmove(buffer->data, buffer->data + sent, buffer->used);
    }
    if (connection->stuck != (buffer->used > 0)) {
        connection->stuck = buffer->used > 0;
        watch(epoll, EPOLL_CTL_MOD, connection->out, connection->stuck ? EPOLLOUT : 0, connection);
    }
}

static void read_templates(const char *path)
{
    FILE *file = fopen(path, "r");
    size_t room = 0;
    ssize_t length;
    if (file == NULL)
        die("cannot read", path, strlen(path));
    while (step_count < STEPS && (length = getline(&templates[step_count].text, &room, file)) > 0) {
        templates[step_count++].length = (size_t)length;
        room = 0;
    }
    fclose(file);
}

static void read_head(const char *path)
{
    FILE *file = fopen(path, "r");
    head = calloc(1, 1 << 16);
    if (file == NULL || head == NULL || (head_length = fread(head, 1, 1 << 16, file)) == 0)
        die("cannot read", path, strlen(path));
    fclose(file);
}

static int ascending(const void *one, const void *other)
{
    float difference = *(const float *)one - *(const float *)other;
    return (difference > 0) - (difference < 0);
}

static double quantile(double share)
{
    return timed ? (double)((float *)latencies.data)[(size_t)((double)(timed - 1) * share)] : 0;
}

int main(int count, char **words)
{
    double seconds = atof(words[1]), warm_up = atof(words[2]), gap = atof(words[4]);
    size_t depth = (size_t)atoi(words[3]), connection_count = (size_t)count - 10, pid_count = 0;
    clockid_t clocks[PIDS];
    double used[PIDS] = {0}, own = 0, began = 0, ended = 0;
    tolerant = atoi(words[5]);
    read_templates(words[6]);
    pattern = words[7];
    if (*words[9])
        read_head(words[9]);
    for (char *pid = strtok(words[8], ","); pid != NULL && pid_count < PIDS; pid = strtok(NULL, ","))
        clocks[pid_count++] = cpu_clock(atoi(pid));

    struct connection *connections = calloc(connection_count, sizeof *connections);
    struct epoll_event events[EVENTS];
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    slot_count = connection_count * depth;
    slots = calloc(slot_count, sizeof *slots);
    double now = clock_seconds(CLOCK_MONOTONIC), start = now;
    for (size_t i = 0; i < connection_count; i++) {
        struct connection *connection = &connections[i];
        if (sscanf(words[10 + i], "%d:%d", &connection->in, &connection->out) != 2)
            die("not IN:OUT", words[10 + i], 30);
        /* epoll knows each direction by a descriptor of its own, also where both are one socket. */
        connection->out = dup(connection->out);
        fcntl(connection->in, F_SETFL, O_NONBLOCK);
        fcntl(connection->out, F_SETFL, O_NONBLOCK);
        watch(epoll, EPOLL_CTL_ADD, connection->in, EPOLLIN, connection);
        watch(epoll, EPOLL_CTL_ADD, connection->out, 0, connection);
        for (size_t slot = 0; slot < depth; slot++)
            request(connection, &slots[i * depth + slot], now);
        transmit(epoll, connection);
    }
    while (in_flight > 0 && !(ending && now > ended + DRAIN)) {
        int ready = epoll_wait(epoll, events, EVENTS, 100);
        /* A process that was stopped and goes on is told that it was interrupted. */
        if (ready < 0 && errno != EINTR)
            die("epoll_wait", strerror(errno), 60);
        now = clock_seconds(CLOCK_MONOTONIC);
        bool begins = !counting && !ending && now >= start + warm_up;
        /* Answers may come in bursts, of as many as are in flight. */
        bool enough = (cycles >= 5 && calls >= 2 * slot_count) || now >= began + seconds + EXTENSION;
        if (begins || (counting && enough && now >= began + seconds)) {
            for (size_t i = 0; i < pid_count; i++)
                used[i] = clock_seconds(clocks[i]) - used[i];
            own = clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - own;
            *(begins ? &began : &ended) = now;
            counting = begins;
            ending = !begins;
        }
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if (events[i].events != EPOLLOUT)
                receive(connection, now, gap);
            transmit(epoll, connection);
        }
    }
    if (timed > 0)
        qsort(latencies.data, timed, sizeof(float), ascending);
    printf("{\"calls\":%llu,\"cycles\":%llu,\"tally\":%llu,\"timed\":%llu,\"failed\":%llu,\"seconds\":%f,\"own_cpu\":%f,"
           "\"unanswered\":%zu,\"p50\":%f,\"p99\":%f,\"longest\":%f,\"cpu\":[",
           (unsigned long long)calls, (unsigned long long)cycles, (unsigned long long)tally,
           (unsigned long long)timed, (unsigned long long)failed, ended - began, own, in_flight, quantile(0.5),
           quantile(0.99), quantile(1));
    for (size_t i = 0; i < pid_count; i++)
        printf("%s%f", i ? "," : "", used[i]);
    puts("]}");
    return 0;
}

from prometheus_client.parser import text_string_to_metric_families


def scraped(client) -> dict[tuple[str, ...], float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_prometheus_reads_what_the_studio_does(client, generator, a_request):
    before = scraped(client)
    assert before["studio_worker_alive",] == 1
    assert before["studio_jobs", "succeeded"] == before["studio_jobs", "queued"] == 0
    job = generator.wait(generator.submit(a_request()).id, 30)
    generator.pause_queue(True)
    generator.submit(a_request(seed=2))
    after = scraped(client)
    assert after["studio_jobs", "succeeded"] == after["studio_jobs", "queued"] == after["studio_queue_paused",] == 1
    assert after["studio_renders_total", "synthetic", "succeeded"] == 1
    assert after["studio_render_seconds_median", "synthetic"] == job.artifact.render_s
    assert after["studio_disk_free_bytes",] > 10**6

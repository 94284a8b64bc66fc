// The shapes of the REST API that the components read; see docs/api.md.

export interface Forecast {
  total_s: number;
  low_s?: number | null;
  high_s?: number | null;
  peak_gib: number;
  disk_bytes: number;
}

export interface Progress {
  stage: string;
  window: number;
  windows: number;
  step: number;
  steps: number;
  fraction: number;
  eta_s: number | null;
  eta_reason?: string;
  frames_ready: number;
  saved_at: number | null;
}

export interface Artifact {
  video: string;
  thumbnail: string;
  width: number;
  height: number;
  frames: number;
  fps: number;
  bytes: number;
  model: string;
  engine: string;
  render_s: number;
  draft?: boolean;
}

export interface JobError {
  code: string;
  message: string;
  hint: string;
  log: string[];
}

export interface Plan {
  model: string;
  model_title: string;
  width: number;
  height: number;
  render_width: number;
  render_height: number;
  enlarged: boolean;
  num_frames: number;
  total_frames: number;
  source_frames: number;
  render_frames: number;
  fps: number;
  num_inference_steps: number;
  guidance_scale: number;
  window_steps: number[];
  windows: unknown[];
  notes: string[];
  unknown_words: string[];
  forecast: Forecast;
  forecast_s: number;
}

export type State =
  | "queued"
  | "running"
  | "paused"
  | "succeeded"
  | "failed"
  | "cancelled"
  | "quarantined"
  | "unreadable";

export interface Job {
  id: string;
  kind: string;
  parent: string | null;
  batch: string | null;
  title: string;
  state: State;
  request: Record<string, any>;
  plan: Plan;
  progress: Progress | null;
  attempts: number;
  error: JobError | null;
  artifact: Artifact | null;
  favourite: boolean;
  rating: number | null;
  note: string | null;
  approved: boolean;
  collections: string[];
  trashed_at: number | null;
  created_at: number;
  started_at: number | null;
  finished_at: number | null;
}

/** A finished video as `GET /videos` lists it. */
export interface VideoCard {
  id: string;
  title: string;
  width: number;
  height: number;
  seconds: number;
  fps: number;
  frames: number;
  favourite: boolean;
  draft: number | null;
  model: string;
  model_title: string;
  mode: string;
  parent: string | null;
  batch: string | null;
  finished_at: number;
  bytes: number;
  seed: number;
  collections: string[];
  rating: number | null;
  approved: boolean;
}

/** What Streamlit hands to a component, see st.components.v2. */
export interface Component<Data> {
  parentElement: ShadowRoot;
  data: Data;
  key: string;
  setTriggerValue: (name: string, value: unknown) => void;
  setStateValue: (name: string, value: unknown) => void;
}
